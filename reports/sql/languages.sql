-- title: Languages
-- answers: In which languages are the questions? (ISO 639-1; und: too short or too formal to tell)
-- section: What is in it
-- order: 240
-- chart: bars y=language x=rows
-- units: rows=rows share=%
-- needs: rows.language
-- card: yes
select coalesce(language, 'und') as language, count(*) as rows, count(*) / sum(count(*)) over ()::double as share
from rows
group by 1
order by rows desc, language
limit 25
