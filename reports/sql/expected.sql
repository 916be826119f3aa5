-- title: What the recipe expects
-- answers: Did each source yield as many rows as the recipe says it should, and of how many files?
-- section: What is in it
-- order: 210
-- chart: table
-- units: read=rows expected=rows quarantined=rows bytes=bytes files=
select
    s.source,
    s.expected,
    s.read,
    case when s.expected is null then 'not stated' when s.expected = s.read then 'as expected' else 'differs' end as verdict,
    (select count(*) from ledger l where l.source = s.source and l.fate = 'quarantined') as quarantined,
    s.files,
    s.bytes
from sources s
order by s.read desc, s.source
