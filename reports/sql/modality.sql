-- title: Text and pictures
-- answers: How many rows of each source have no picture, one, or several?
-- section: What is in it
-- order: 230
-- chart: bars y=source x=rows color=modality
-- units: rows=rows
-- needs: rows.images
select
    source,
    case when coalesce(len(images), 0) = 0 then 'text' when len(images) = 1 then 'one picture' else 'several pictures' end as modality,
    count(*) as rows
from rows
group by source, modality
order by sum(count(*)) over (partition by source) desc, source, modality
