-- title: In one line
-- answers: How many rows came in, how many are in the data, and how many examples were made of them?
-- section: Summary
-- order: 10
-- chart: numbers
-- units: read=rows kept=rows kept_share=%
with counted as (
    select count(*) as read, count(*) filter (where fate = 'kept') as kept, count(distinct source) as sources from ledger
)
select
    read,
    kept,
    kept / nullif(read, 0)::double as kept_share,
    sources,
    (select sum(examples)::bigint from examples) as examples
from counted
