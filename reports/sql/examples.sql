-- title: Examples by output and split
-- answers: How many training examples does each output hold?
-- section: What is in it
-- order: 220
-- chart: table
-- units: examples=
-- card: yes
select config, export, split, examples from examples order by config, split
