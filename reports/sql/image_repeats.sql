-- title: Pictures that many rows show
-- answers: Which pictures stand in more than one row?
-- section: Pictures
-- order: 820
-- chart: table
-- units: rows=rows
-- needs: images.hash, decisions.images
select
    left(i.picture, 16) as picture,
    count(distinct i.row_id) as rows,
    string_agg(distinct i.source, ', ' order by i.source) as sources,
    min(m.format) as format,
    min(m.width) || ' × ' || min(m.height) as pixels
from (select row_id, source, unnest(images) as picture from decisions) i left join images m on m.hash = i.picture
group by i.picture
having count(distinct i.row_id) > 1
order by rows desc, i.picture
limit 12
