-- title: Licences, and what may be published
-- answers: Under which licences do the rows stand, and what does each ask of whoever publishes the data?
-- section: What is in it
-- order: 260
-- chart: table
-- units: rows=rows share=%
-- card: yes
-- A reading of licence names, not legal advice: what the licence itself says counts.
with named as (select source, coalesce(license, 'unknown') as license from rows)
select
    license,
    string_agg(distinct source, ', ' order by source) as sources,
    count(*) as rows,
    count(*) / sum(count(*)) over ()::double as share,
    case
        when lower(license) = 'unknown' then 'unclear: find out before publishing'
        when regexp_matches(lower(license), '(^|-)nd(-|$)') then 'no changed copies: publish only with permission'
        when regexp_matches(lower(license), '(^|-)nc(-|$)') then 'not for commercial use; name the authors'
        when regexp_matches(lower(license), '(^|-)sa(-|$)|gpl|odbl') then 'may be published under the same licence'
        when regexp_matches(lower(license), '^cc0|public|pddl|unlicense') then 'may be published'
        when regexp_matches(lower(license), '^(mit|apache|bsd|cc-by|isc|odc-by|afl|zlib)') then 'may be published; name the authors and the licence'
        else 'read the licence before publishing'
    end as what_it_asks
from named
group by license
order by rows desc, license
