-- title: Length of responses in tokens
-- answers: How many tokens do the responses of each fan-out have, and how long is the tail?
-- section: Lengths
-- order: 410
-- chart: range y=stage low=p5 mid=median high=p95
-- units: traces= p5=tokens median=tokens mean=tokens p95=tokens p99=tokens longest=tokens
-- needs: traces.output_tokens
select
    stage,
    count(*) as traces,
    quantile_disc(output_tokens, 0.05) as p5,
    quantile_disc(output_tokens, 0.5) as median,
    avg(output_tokens) as mean,
    quantile_disc(output_tokens, 0.95) as p95,
    quantile_disc(output_tokens, 0.99) as p99,
    max(output_tokens) as longest
from traces
where output_tokens is not null
group by stage
order by stage
