-- title: Speed of generation over time
-- answers: How many tokens a second did each fan-out write while it ran, and when did requests fail and go out again?
-- section: Generation
-- order: 455
-- chart: line x=minutes y=tokens_per_second color=stage
-- units: minutes=minutes tokens_per_second=tokens/s prompt_tokens_per_second=tokens/s answers= again= in_flight=requests
-- needs: stages
-- Between two lines of the log; runs that asked the same follow one another, without the time between them.
with lines as (
    select
        position,
        name as stage,
        unnest(cast(notes -> '$.throughput.run' as bigint[])) as run,
        unnest(cast(notes -> '$.throughput.seconds' as double[])) as seconds,
        unnest(cast(notes -> '$.throughput.answers' as bigint[])) as answers,
        unnest(cast(notes -> '$.throughput.again' as bigint[])) as again,
        unnest(cast(notes -> '$.throughput.prompt_tokens' as bigint[])) as prompt_tokens,
        unnest(cast(notes -> '$.throughput.output_tokens' as bigint[])) as output_tokens,
        unnest(cast(notes -> '$.throughput.in_flight' as bigint[])) as in_flight
    from stages
    where kind = 'fanout'
),
steps as (
    select
        position, stage, run, seconds, in_flight,
        seconds - lag(seconds, 1, 0) over each as took,
        answers - lag(answers, 1, 0) over each as answers,
        again - lag(again, 1, 0) over each as again,
        prompt_tokens - lag(prompt_tokens, 1, 0) over each as prompt_tokens,
        output_tokens - lag(output_tokens, 1, 0) over each as output_tokens
    from lines l
    window each as (partition by position, run order by seconds)
    qualify max(l.answers) over (partition by position, run) > 0
)
select
    stage,
    sum(took) over (partition by position order by run, seconds) / 60 as minutes,
    output_tokens / took as tokens_per_second,
    prompt_tokens / took as prompt_tokens_per_second,
    answers,
    again,
    in_flight
from steps
where took > 0
order by position, run, seconds
