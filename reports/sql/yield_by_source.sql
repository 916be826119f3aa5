-- title: Yield by source
-- answers: How many rows of each source got traces, how many traces are correct, and how many rows have at least one?
-- section: Traces
-- order: 300
-- chart: bars y=source x=solved_share
-- units: rows=rows traces= judged= correct= correct_share=% solved=rows solved_share=%
-- needs: decisions.n_correct
-- card: yes
select
    source,
    count(*) as rows,
    sum(n_traces)::bigint as traces,
    sum(n_judged)::bigint as judged,
    sum(n_correct)::bigint as correct,
    sum(n_correct) / nullif(sum(n_judged), 0)::double as correct_share,
    count(*) filter (where n_correct > 0) as solved,
    count(*) filter (where n_correct > 0) / count(*)::double as solved_share
from decisions
where n_traces > 0
group by source
order by rows desc, source
