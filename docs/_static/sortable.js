// Tables in div.sortable: a button in each header sorts the rows by its column.
'use strict';

// The first number of a cell, or its text in lower case; null if it is empty.
function sortKey(row, column) {
  const text = row.cells[column].textContent.trim();
  const number = text.match(/^-?[\d,]+(\.\d+)?/);
  if (number) return parseFloat(number[0].replaceAll(',', ''));
  return text === '' || text === 'not run here yet' ? null : text.toLowerCase();
}

// Numbers come before texts; empty cells are last in both directions.
function compare(a, b, direction) {
  if (a === null || b === null) return (a === null) - (b === null);
  if (typeof a !== typeof b) return typeof a === 'number' ? -1 : 1;
  return direction * (a < b ? -1 : Number(a > b));
}

function sortBy(table, column) {
  const headers = [...table.tHead.rows[0].cells];
  const ascending = headers[column].ariaSort !== 'ascending';
  const body = table.tBodies[0];
  const rows = [...body.rows].map((row) => [sortKey(row, column), row]);
  rows.sort(([a], [b]) => compare(a, b, ascending ? 1 : -1));
  body.append(...rows.map(([, row]) => row));
  for (const header of headers) header.ariaSort = null;
  headers[column].ariaSort = ascending ? 'ascending' : 'descending';
}

document.addEventListener('DOMContentLoaded', () => {
  for (const table of document.querySelectorAll('div.sortable table')) {
    [...table.tHead.rows[0].cells].forEach((header, column) => {
      const button = document.createElement('button');
      button.type = 'button';
      button.append(...header.childNodes);
      button.addEventListener('click', () => sortBy(table, column));
      header.append(button);
    });
  }
});
