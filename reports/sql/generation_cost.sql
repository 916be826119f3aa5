-- title: What generation cost
-- answers: What did each fan-out ask its teacher for, how long did that take, and how much of it had to be asked again?
-- section: Generation
-- order: 450
-- chart: table
-- units: time=s runs= requests= answers= again= reused= truncated=% failed=% prompt_tokens=tokens output_tokens=tokens tokens_per_second=tokens/s tokens_per_answer=tokens
-- needs: stages
-- Of all runs of a fan-out that asked the same, an interrupted one and its resumption among them. `reused` are answers
-- that the last run found in the store; `again` are answers asked for again, and requests sent again after an error.
with lines as (
    select
        position,
        name as stage,
        unnest(cast(notes -> '$.throughput.run' as bigint[])) as run,
        unnest(cast(notes -> '$.throughput.seconds' as double[])) as seconds,
        unnest(cast(notes -> '$.throughput.requests' as bigint[])) as requests,
        unnest(cast(notes -> '$.throughput.answers' as bigint[])) as answers,
        unnest(cast(notes -> '$.throughput.again' as bigint[])) as again,
        unnest(cast(notes -> '$.throughput.reused' as bigint[])) as reused,
        unnest(cast(notes -> '$.throughput.truncated' as bigint[])) as truncated,
        unnest(cast(notes -> '$.throughput.failed' as bigint[])) as failed,
        unnest(cast(notes -> '$.throughput.prompt_tokens' as bigint[])) as prompt_tokens,
        unnest(cast(notes -> '$.throughput.output_tokens' as bigint[])) as output_tokens
    from stages
    where kind = 'fanout'
),
runs as (select distinct on (position, run) * from lines order by position, run, seconds desc)
select
    stage,
    count(*) filter (where answers > 0) as runs,
    sum(seconds) as time,
    sum(requests)::bigint as requests,
    sum(answers)::bigint as answers,
    sum(again)::bigint as again,
    arg_max(reused, run) as reused,
    sum(truncated) / nullif(sum(answers), 0)::double as truncated,
    sum(failed) / nullif(sum(answers), 0)::double as failed,
    sum(prompt_tokens)::bigint as prompt_tokens,
    sum(output_tokens)::bigint as output_tokens,
    sum(output_tokens) / nullif(sum(seconds) filter (where answers > 0), 0) as tokens_per_second,
    sum(output_tokens) / nullif(sum(answers), 0)::double as tokens_per_answer
from runs
group by position, stage
having sum(answers) > 0
order by position
