-- title: How often the judge agrees with the rules
-- answers: Of answers that the rules decided, a sample went to the judge too. What did it say of them?
-- section: Traces
-- order: 345
-- chart: table
-- units: asked= agreed= share=%
-- needs: verdicts.method
with sampled as (
    select method, state, json_extract_string(evidence, '$.judge_sample') as said
    from verdicts
    where method <> 'judge' and evidence like '%"judge_sample"%'
)
select
    method,
    state as rules_say,
    count(*) as asked,
    count(*) filter (where said = if(state = 'correct', 'equivalent', 'different')) as agreed,
    agreed / asked as share
from sampled
group by all
order by method, rules_say
