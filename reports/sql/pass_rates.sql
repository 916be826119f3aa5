-- title: Pass rates
-- answers: How hard are the rows? (correct over judged traces of a row)
-- section: Traces
-- order: 320
-- chart: columns x=pass_rate y=rows
-- units: rows=rows share=%
-- needs: decisions.pass_rate
with binned as (
    select
        case when pass_rate = 0 then 0 when pass_rate = 1 then 11 else 1 + floor(least(pass_rate, 0.9999) * 10)::integer end as bin
    from decisions
    where pass_rate is not null
)
select
    case bin when 0 then '0 %' when 11 then '100 %' else format('{}–{} %', (bin - 1) * 10, bin * 10) end as pass_rate,
    count(b.bin) as rows,
    count(b.bin) / nullif(sum(count(b.bin)) over (), 0)::double as share
from (select unnest(range(12)) as bin) bins left join binned b using (bin)
group by bin
having (select count(*) from binned) > 0
order by bin
