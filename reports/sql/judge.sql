-- title: What the judge said
-- answers: Where the rules left a verdict open and a judge was asked, how often did it call the answers equivalent?
-- section: Traces
-- order: 340
-- chart: table
-- units: traces=
-- needs: verdicts.method
select
    coalesce(json_extract_string(evidence, '$.judge'), 'no word') as judge,
    state,
    count(*) as traces
from verdicts
where method = 'judge'
group by all
order by traces desc, judge, state
