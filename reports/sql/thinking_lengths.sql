-- title: Length of responses, thinking and answers
-- answers: How long are the responses of each source, and how much of them is thinking, how much the answer after it?
-- section: Lengths
-- order: 420
-- chart: table
-- units: traces= median=characters mean=characters p95=characters longest=characters mean_tokens=tokens median_tokens=tokens p95_tokens=tokens most_tokens=tokens
-- needs: traces.text, traces.output_tokens, decisions.source
-- Texts of rows whose id begins below $sampled_until are read: ids are hashes, so they are a fair sample. Teachers tell
-- tokens of whole responses; a part of one has its share of them by characters.
with read as (
    select row_id, strpos(text, '</think>') as ends, length(text) as whole, output_tokens as tokens
    from traces
    where row_id < '$sampled_until' and text is not null
),
of_source as (
    select
        source,
        tokens,
        whole,
        unnest(['response', 'thinking', 'answer']) as part,
        unnest([whole, case when ends > 0 then ends - 1 end, case when ends > 0 then whole - ends - 7 else whole end]) as n
    from read join (select row_id, source from decisions where row_id < '$sampled_until') d using (row_id)
),
measured as (
    select source, part, n, tokens * n / nullif(whole, 0)::double as tokens from of_source where n is not null
)
select
    source,
    part,
    count(*) as traces,
    quantile_disc(n, 0.5) as median,
    avg(n) as mean,
    quantile_disc(n, 0.95) as p95,
    max(n) as longest,
    round(quantile_disc(tokens, 0.5))::bigint as median_tokens,
    round(avg(tokens))::bigint as mean_tokens,
    round(quantile_disc(tokens, 0.95))::bigint as p95_tokens,
    round(max(tokens))::bigint as most_tokens
from measured
group by source, part
order by max(count(*)) over (partition by source) desc, source, array_position(['response', 'thinking', 'answer'], part)
