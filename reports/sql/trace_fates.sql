-- title: Traces that are not in the data
-- answers: Why were traces not exported?
-- section: Traces
-- order: 350
-- chart: table
-- units: traces= share=%
-- needs: traces.fate
select
    fate,
    coalesce(fate_reason, '') as reason,
    count(*) as traces,
    count(*) / sum(count(*)) over ()::double as share
from traces
group by all
order by traces desc, reason
