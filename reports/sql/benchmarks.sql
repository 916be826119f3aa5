-- title: What overlaps with benchmarks and other versions
-- answers: How many rows hold an item of a benchmark, are siblings of one, or show its picture?
-- section: Decontamination
-- order: 700
-- chart: bars y=benchmark x=rows color=kind
-- units: rows=rows
-- needs: decisions.benchmark_overlap
-- card: yes
with said as (
    select evidence as e, 'taken out' as done from ledger where reason similar to '(benchmark|version)_(leak|sibling|picture)'
    union all
    select benchmark_overlap, 'kept and marked' from decisions where benchmark_overlap is not null
)
select
    json_extract_string(e, '$.benchmark') as benchmark,
    json_extract_string(e, '$.kind') as kind,
    json_extract_string(e, '$.rule') as rule,
    done,
    count(*) as rows
from said
group by all
order by rows desc, benchmark, kind, rule, done
