-- title: Traces in one line
-- answers: How many traces were made, how many of those that could be judged are correct, and how many are in the data?
-- section: Summary
-- order: 20
-- chart: numbers
-- units: correct_share=% exported_share=%
-- needs: traces.fate, verdicts.state
with made as (select count(*) as traces, count(*) filter (where fate = 'exported') as exported from traces),
verified as (
    select
        count(*) filter (where state in ('correct', 'incorrect', 'no_answer', 'truncated')) as judged,
        count(*) filter (where state = 'correct') as correct
    from verdicts
)
select
    traces,
    judged,
    correct / nullif(judged, 0)::double as correct_share,
    exported,
    exported / nullif(traces, 0)::double as exported_share
from made, verified
