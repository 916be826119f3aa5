-- title: Every reason
-- answers: Why did rows leave, in the words of the stage that took them out?
-- section: Where rows went
-- order: 110
-- chart: table
-- units: rows=rows share=%
-- card: yes
select
    stage,
    fate,
    reason,
    count(*) as rows,
    count(*) / sum(count(*)) over ()::double as share,
    min(sentence) filter (where fate <> 'kept') as for_example
from ledger
group by stage, fate, reason
order by fate = 'kept', rows desc, stage, reason
