-- title: Overlap between sources
-- answers: How many rows of one source were merged into rows of another?
-- section: Duplicates
-- order: 520
-- chart: heat x=kept_in y=merged_from value=rows
-- units: rows=rows
with merged as (select source, "into" from ledger where fate = 'merged'),
heads as (select row_id, source from ledger where row_id in (select "into" from merged))
select m.source as merged_from, h.source as kept_in, count(*) as rows
from merged m join heads h on h.row_id = m."into"
group by all
order by rows desc, merged_from, kept_in
