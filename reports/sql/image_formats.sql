-- title: Pictures by format
-- answers: Which formats and sizes do the pictures have?
-- section: Pictures
-- order: 800
-- chart: table
-- units: pictures= bytes=bytes mean_bytes=bytes median_megapixels=MP tiny= transparent= animated=
-- needs: images.format
select
    format,
    count(*) as pictures,
    sum(bytes)::bigint as bytes,
    avg(bytes) as mean_bytes,
    quantile_cont(width::bigint * height / 1e6, 0.5) as median_megapixels,
    min(width) || ' × ' || min(height) as least_sides,
    max(width) || ' × ' || max(height) as greatest_sides,
    count(*) filter (where tiny) as tiny,
    count(*) filter (where alpha) as transparent,
    count(*) filter (where frames > 1) as animated
from images
group by format
order by pictures desc, format
