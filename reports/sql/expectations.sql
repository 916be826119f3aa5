-- title: Expected and found
-- answers: Where do the counts of this build depart from those that its recipe states?
-- section: What is in it
-- order: 205
-- chart: table
-- units: expected= found= within=%
-- needs: expectations
select what, expected, within, found, case when agrees then 'as expected' else 'differs' end as verdict, because
from expectations
