-- title: Finished, cut off, failed
-- answers: How did the responses of each fan-out end?
-- section: Traces
-- order: 360
-- chart: bars y=stage x=traces color=finish
-- units: traces= share=%
-- needs: traces.finish
select
    stage,
    finish,
    count(*) as traces,
    count(*) / sum(count(*)) over (partition by stage)::double as share
from traces
group by stage, finish
order by stage, array_position(['finished', 'truncated', 'failed'], finish)
