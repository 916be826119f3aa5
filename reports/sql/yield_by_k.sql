-- title: What more tries would bring
-- answers: Asked k times, how many of the rows have at least one correct trace, and how many correct traces are there?
-- section: Traces
-- order: 310
-- chart: line x=k y=solved_share color=source
-- units: solved_share=% correct_traces= k=tries
-- needs: decisions.n_correct
-- For a row with c correct of n judged traces, k of them hold at least one correct with probability
-- 1 - C(n-c, k) / C(n, k) (Chen et al. 2021, pass@k). A row with fewer than k traces counts with those that it has.
with counts as (
    select source, n_judged as n, n_correct as c, count(*) as rows
    from decisions
    where n_judged > 0
    group by all
),
named as (
    select * from counts where (select count(distinct source) from counts) > 1
    union all
    select 'all sources', n, c, sum(rows)::bigint from counts group by n, c
),
tries as (select unnest(range(1, (select max(n) from counts)::bigint + 1)) as k),
each as (
    select source, k, n, c, rows, least(k, n) as m from named, tries
)
select
    source,
    k,
    sum(rows * case
        when c = 0 then 0
        when n - c < m then 1
        else 1 - exp(lgamma(n - c + 1) - lgamma(n - c - m + 1) - lgamma(n + 1) + lgamma(n - m + 1))
    end) / sum(rows) as solved_share,
    round(sum(rows * m * c / n::double))::bigint as correct_traces,
    sum(rows)::bigint as rows
from each
group by source, k
order by source <> 'all sources', max(sum(rows)) over (partition by source) desc, source, k
