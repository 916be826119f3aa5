-- title: Share of each source
-- answers: How much of the data comes from each source, and under which licences?
-- section: What is in it
-- order: 205
-- chart: table
-- units: read=rows kept=rows kept_share=% of_the_data=%
-- card: yes
with per_source as (
    select source, count(*) as read, count(*) filter (where fate = 'kept') as kept from ledger group by source
),
named as (
    select source, string_agg(license || ' (' || format('{:,}', n) || ')', ', ' order by n desc, license) as licences
    from (select source, coalesce(license, 'unknown') as license, count(*) as n from rows group by all)
    group by source
)
select
    source,
    read,
    kept,
    kept / read::double as kept_share,
    kept / nullif(sum(kept) over (), 0)::double as of_the_data,
    licences
from per_source left join named using (source)
order by kept desc, source
