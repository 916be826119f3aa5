-- title: The largest clusters
-- answers: Which questions stand most often, and in which sources?
-- section: Duplicates
-- order: 510
-- chart: table
-- units: copies=
-- needs: decisions.question
with clusters as (
    select
        "into" as row_id,
        count(*) + 1 as copies,
        string_agg(distinct source, ', ' order by source) as merged_from,
        list(row_id order by row_id)[1:5] as members
    from ledger
    where fate = 'merged'
    group by "into"
    order by copies desc, "into"
    limit 12
)
select c.row_id, c.copies, c.merged_from, left(d.question, 160) as question, c.members
from clusters c left join decisions d on d.row_id = c.row_id
order by c.copies desc, c.row_id
