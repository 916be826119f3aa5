-- title: Sizes of duplicate clusters
-- answers: How many questions stand more than once, and how often?
-- section: Duplicates
-- order: 500
-- chart: columns x=copies y=clusters
-- units: clusters= merged=rows
with clusters as (select "into", count(*) + 1 as n from ledger where fate = 'merged' group by "into")
select
    case when n < 6 then n::varchar when n < 11 then '6–10' when n < 51 then '11–50' else 'over 50' end as copies,
    count(*) as clusters,
    sum(n - 1)::bigint as merged
from clusters
group by copies
order by min(n)
