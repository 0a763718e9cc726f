/*---
name: Company statistics
description: Size of each paying account, for its Salesforce record. Counts only; nobody is named.
primary_key: account_id
---*/
WITH workspaces AS (
  SELECT account_id, COUNT(*) AS workspace_count, CAST(SUM(board_count) AS BIGINT) AS board_count
  FROM product.workspaces
  GROUP BY account_id
),

-- A person with roles in several workspaces of an account counts once.
people AS (
  SELECT workspaces.account_id, roles.user_id
  FROM product.workspace_roles AS roles
  JOIN product.workspaces AS workspaces ON workspaces.workspace_id = roles.workspace_id
  GROUP BY workspaces.account_id, roles.user_id
),

seats AS (
  SELECT account_id, COUNT(*) AS seats_used
  FROM people
  GROUP BY account_id
)

SELECT
  accounts.account_id,
  accounts.company_name,
  accounts.plan,
  accounts.arr,
  accounts.seats_bought,
  COALESCE(seats.seats_used, 0) AS seats_used,
  COALESCE(workspaces.workspace_count, 0) AS workspace_count,
  COALESCE(workspaces.board_count, 0) AS board_count
FROM billing.accounts AS accounts
LEFT JOIN workspaces ON workspaces.account_id = accounts.account_id
LEFT JOIN seats ON seats.account_id = accounts.account_id
