-- title: Labels that the traces doubt
-- answers: How many gold answers cannot be read, are none of the choices, or are contradicted by the traces with one voice?
-- section: Labels
-- order: 610
-- chart: bars y=source x=rows color=problem
-- units: rows=rows in_the_data=rows
-- needs: decisions.label_problem
select
    source,
    label_problem as problem,
    count(*) as rows,
    count(*) filter (where row_id in (select row_id from rows)) as in_the_data
from decisions
where label_problem is not null
group by all
order by rows desc, source, problem
