-- title: From what came in to what is in the data
-- answers: Which stage takes out how many rows?
-- section: Where rows went
-- order: 100
-- chart: waterfall y=step from=before to=after color=change
-- units: before=rows after=rows lost=rows lost_share=%
-- card: yes
with lost as (
    select l.stage, coalesce(min(s.position), 1000000) as position, count(*) as n
    from ledger l left join stages s on s.name = l.stage
    where l.fate <> 'kept'
    group by l.stage
),
total as (select count(*) as n, count(*) filter (where fate = 'kept') as kept from ledger),
steps as (
    select 0 as place, 'read' as step, 0 as before, n as after, 'total' as change from total
    union all
    select
        1 + row_number() over (order by position, stage),
        stage,
        (select n from total) - coalesce(sum(n) over (order by position, stage rows between unbounded preceding and 1 preceding), 0),
        (select n from total) - sum(n) over (order by position, stage),
        'taken out'
    from lost
    union all
    select 1000000, 'in the data', 0, kept, 'total' from total
)
select
    step,
    before::bigint as before,
    after::bigint as after,
    case when change = 'taken out' then (before - after)::bigint end as lost,
    case when change = 'taken out' then (before - after) / nullif((select n from total), 0)::double end as lost_share,
    change
from steps
order by place
