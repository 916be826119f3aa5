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
with told as (
    select
        t.row_id, t.stage, t.model, t.finish, t.malformed, t.prompt_tokens, t.output_tokens, v.state,
        v.state in ('correct', 'incorrect', 'no_answer', 'truncated') as judged,
        v.answer_normal
    from traces t
    left join verdicts v using (row_id, k)
),
per_row as (
    select
        stage, model, row_id,
        max(prompt_tokens) as prompt_tokens,
        count(distinct answer_normal) filter (state in ('correct', 'incorrect')) as answers,
        count(*) filter (state = 'correct') > 0 as solved
    from told
    group by all
),
per_stage as (
    select stage, model, sum(prompt_tokens) as prompt_tokens, avg(answers) as distinct_answers, count(*) as n_rows,
           count(*) filter (solved) as solved
    from per_row
    group by all
)
select
    s.stage,
    s.model,
    s.n_rows as "rows",
    count(*) as traces,
    count(*) filter (t.state = 'correct') / nullif(count(*) filter (t.judged), 0)::double as verified,
    s.solved / s.n_rows::double as rows_solved,
    s.distinct_answers,
    avg(t.output_tokens) as mean_tokens,
    quantile_cont(t.output_tokens, 0.95) as p95_tokens,
    count(*) filter (t.finish = 'truncated') / count(*)::double as truncated,
    count(*) filter (t.finish = 'failed') / count(*)::double as failed,
    count(*) filter (t.malformed is not null) / count(*)::double as malformed,
    s.prompt_tokens::bigint as prompt_tokens,
    sum(t.output_tokens)::bigint as output_tokens,
    count(*) filter (t.state = 'correct') as correct
from told t
join per_stage s using (stage, model)
group by s.stage, s.model, s.n_rows, s.solved, s.distinct_answers, s.prompt_tokens
order by s.stage, s.model
