-- title: Are long responses wrong more often?
-- answers: How are the lengths of responses spread, by verdict?
-- section: Lengths
-- order: 430
-- chart: columns x=characters y=traces color=state
-- units: traces=
-- needs: traces.text, verdicts.state
-- Texts of rows whose id begins below $sampled_until are read: ids are hashes, so they are a fair sample.
with read as (
    select v.state, floor(log2(greatest(length(t.text), 1)))::integer as bin
    from (select row_id, k, text from traces where row_id < '$sampled_until' and text is not null) t
    join (select row_id, k, state from verdicts where row_id < '$sampled_until') v using (row_id, k)
)
select format('{:,}–{:,}', (2 ** bin)::bigint, (2 ** (bin + 1))::bigint - 1) as characters, state, count(*) as traces
from read
group by bin, state
order by bin, state
