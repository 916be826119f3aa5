-- title: Length of questions
-- answers: How long are the questions of each source? Tokens where the recipe names a tokenizer.
-- section: Lengths
-- order: 400
-- chart: range y=source low=p5 mid=median high=p95
-- units: rows=rows p5=characters median=characters mean=characters p95=characters longest=characters mean_tokens=tokens p95_tokens=tokens
-- needs: rows.question
-- card: yes
with measured as (select source, length(question) as n, n_tokens from rows)
select
    source,
    count(*) as rows,
    quantile_disc(n, 0.05) as p5,
    quantile_disc(n, 0.5) as median,
    avg(n) as mean,
    quantile_disc(n, 0.95) as p95,
    max(n) as longest,
    avg(n_tokens) as mean_tokens,
    quantile_disc(n_tokens, 0.95) as p95_tokens
from measured
group by source
order by rows desc, source
