-- title: How verdicts were found
-- answers: Which layer of the checker decided, and what did it say?
-- section: Traces
-- order: 330
-- chart: bars y=method x=traces color=state
-- units: traces=
-- needs: verdicts.method
select method, state, count(*) as traces
from verdicts
group by method, state
order by
    sum(count(*)) over (partition by method) desc,
    method,
    array_position(['correct', 'incorrect', 'no_answer', 'truncated', 'undecided', 'unparsable_gold', 'checker_timeout', 'checker_error'], state)
