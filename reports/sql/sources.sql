-- title: Rows by source and fate
-- answers: What does each source bring, and what becomes of it?
-- section: What is in it
-- order: 200
-- chart: bars y=source x=rows color=fate
-- units: rows=rows share=%
select
    source,
    fate,
    count(*) as rows,
    count(*) / sum(count(*)) over (partition by source)::double as share
from ledger
group by source, fate
order by sum(count(*)) over (partition by source) desc, source, array_position(['kept', 'merged', 'dropped', 'quarantined'], fate)
