"""Reports: questions in SQL about a version's folder, and what makes pages, cards and tables of the answers.

`tables` shows a version's folder to DuckDB, `questions` finds the .sql files and runs them, `charts` draws an answer,
`samples` picks rows to look at, `page` puts it all into one HTML file. Nothing here knows how a version is built or where a
workspace keeps its pictures: what lies outside the folder is handed in (`Outside`).
"""
