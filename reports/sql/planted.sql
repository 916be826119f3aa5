-- title: How much of what leaks is found
-- answers: Altered copies of benchmark items went through the same search. How many of them were found?
-- section: Decontamination
-- order: 710
-- chart: table
-- units: planted= found= recall=%
-- card: yes
select
    s.name as stage,
    r.key as altered,
    (r.value ->> '$.planted')::bigint as planted,
    (r.value ->> '$.found')::bigint as found,
    (r.value ->> '$.recall')::double as recall
from stages s, json_each(s.notes, '$.recall') r
where s.kind = 'decontaminate'
order by s.position, recall, altered
