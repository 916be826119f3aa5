-- title: One question, several answers
-- answers: Which questions stand more than once with answers that contradict each other?
-- section: Labels
-- order: 600
-- chart: table
-- units: rows=rows
-- needs: decisions.label_conflict
select
    label_conflict as question_row,
    count(*) as rows,
    string_agg(distinct source, ', ' order by source) as sources,
    list(distinct answer order by answer)[1:6] as answers,
    left(min(question), 160) as question
from decisions
where label_conflict is not null
group by label_conflict
order by rows desc, question_row
limit 20
