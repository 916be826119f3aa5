-- title: Tokens to train on
-- answers: How many tokens does one pass over the exported responses cost, by split?
-- section: Lengths
-- order: 440
-- chart: table
-- units: examples= response_tokens=tokens estimated_tokens=tokens question_tokens=tokens
-- needs: traces.fate, traces.text, decisions.split
-- `response_tokens` is what teachers told. `estimated_tokens` is characters over 4, from the exported responses of rows
-- whose id begins below $sampled_until, scaled to all of them.
with exported as (select row_id, output_tokens from traces where fate = 'exported'),
size as (
    select avg(length(text)) / 4 as tokens from traces where fate = 'exported' and row_id < '$sampled_until'
)
select
    d.split,
    count(*) as examples,
    sum(e.output_tokens)::bigint as response_tokens,
    round(count(*) * (select tokens from size))::bigint as estimated_tokens,
    sum(d.n_tokens)::bigint as question_tokens
from exported e join (select row_id, split, n_tokens from decisions) d using (row_id)
group by d.split
order by examples desc, d.split
