-- title: Sizes of pictures
-- answers: How many pixels do the pictures have on their longer side?
-- section: Pictures
-- order: 810
-- chart: columns x=longer_side y=pictures
-- units: pictures=
-- needs: images.width
with sized as (
    select [0, 28, 112, 224, 336, 448, 672, 1024, 2048, 4096, 1000000] as edges, greatest(width, height) as side from images
),
binned as (select side, edges, len(list_filter(edges, lambda e: e <= side)) as bin from sized)
select
    case when edges[bin] >= 4096 then '4,096 px and more' else format('{:,}–{:,} px', edges[bin], edges[bin + 1] - 1) end as longer_side,
    count(*) as pictures
from binned
group by bin, edges
order by bin
