-- title: What each fan-out is worth
-- answers: How do the teachers compare: verified rate, rows solved, length, truncation, tokens read and written?
-- section: Traces
-- order: 370
-- chart: table
-- units: rows=rows traces= verified=% rows_solved=% distinct_answers= mean_tokens=tokens p95_tokens=tokens truncated=% failed=% malformed=% prompt_tokens=tokens output_tokens=tokens correct=
-- needs: traces.malformed, verdicts.answer_normal
--
-- A verified rate is over traces that could be judged; a failed trace is in no rate. Distinct answers are counted per
-- row over judged traces and averaged. Prompts are counted once per row: a teacher reads them once for all its answers.
-- Rates that need verdicts are those of rows whose id begins below $sampled_until: ids are hashes, so they are a fair sample.
with told as (
    select
        t.row_id, t.stage, t.model, v.state, v.answer_normal,
        v.state in ('correct', 'incorrect', 'no_answer', 'truncated') as judged
    from (select row_id, k, stage, model from traces where row_id < '$sampled_until') t
    left join (select row_id, k, state, answer_normal from verdicts where row_id < '$sampled_until') v using (row_id, k)
),
verified as (
    select stage, model, count(*) filter (state = 'correct') as correct, count(*) filter (judged) as judged, count(*) as traces
    from told
    group by all
),
solved as (
    select stage, model, avg(answers) as distinct_answers, avg(solved::integer) as rows_solved
    from (
        select
            stage, model, row_id,
            count(distinct answer_normal) filter (state in ('correct', 'incorrect')) as answers,
            count(*) filter (state = 'correct') > 0 as solved
        from told
        group by all
    )
    group by all
),
prompts as (
    select stage, model, count(*) as n_rows, sum(prompt_tokens)::bigint as prompt_tokens
    from (select stage, model, row_id, max(prompt_tokens) as prompt_tokens from traces group by all)
    group by all
),
lengths as (
    select
        stage,
        model,
        count(*) as traces,
        avg(output_tokens) as mean_tokens,
        quantile_cont(output_tokens, 0.95) as p95_tokens,
        count(*) filter (finish = 'truncated') / count(*)::double as truncated,
        count(*) filter (finish = 'failed') / count(*)::double as failed,
        count(*) filter (malformed is not null) / count(*)::double as malformed,
        sum(output_tokens)::bigint as output_tokens
    from traces
    group by all
)
select
    stage,
    model,
    n_rows as "rows",
    l.traces,
    v.correct / nullif(v.judged, 0)::double as verified,
    s.rows_solved,
    s.distinct_answers,
    l.mean_tokens,
    l.p95_tokens,
    l.truncated,
    l.failed,
    l.malformed,
    p.prompt_tokens,
    l.output_tokens,
    round(v.correct * l.traces / nullif(v.traces, 0)::double)::bigint as correct
from lengths l
join prompts p using (stage, model)
left join verified v using (stage, model)
left join solved s using (stage, model)
order by stage, model
