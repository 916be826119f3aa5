-- title: Length of thinking and answers
-- answers: How much of a response is thinking, and how much is the answer after it, by source?
-- section: Lengths
-- order: 420
-- chart: table
-- units: traces= thinking_median=characters thinking_p95=characters answer_median=characters answer_mean=characters answer_p95=characters answer_longest=characters with_thinking=%
-- needs: traces.text, decisions.source
-- Texts of rows whose id begins below $sampled_until are read: ids are hashes, so they are a fair sample.
with read as (
    select
        t.row_id,
        strpos(t.text, '</think>') as ends,
        length(t.text) as n
    from traces t
    where t.row_id < '$sampled_until' and t.text is not null
),
of_source as (
    select d.source, case when ends > 0 then ends - 1 end as thinking, case when ends > 0 then n - ends - 7 else n end as answer
    from read join (select row_id, source from decisions where row_id < '$sampled_until') d using (row_id)
)
select
    source,
    count(*) as traces,
    count(thinking) / count(*)::double as with_thinking,
    quantile_disc(thinking, 0.5) as thinking_median,
    quantile_disc(thinking, 0.95) as thinking_p95,
    quantile_disc(answer, 0.5) as answer_median,
    avg(answer) as answer_mean,
    quantile_disc(answer, 0.95) as answer_p95,
    max(answer) as answer_longest
from of_source
group by source
order by traces desc, source
