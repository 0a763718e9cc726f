/*---
name: Activity summary
description: What happened in each workspace in the last 30 days, from the events that name it. Counts only; nobody is named.
primary_key: workspace_id
---*/
WITH activity AS (
  SELECT
    workspace_id,
    CAST(SUM(boards) AS BIGINT) AS boards_created,
    CAST(SUM(shares) AS BIGINT) AS boards_shared
  FROM (
    SELECT workspace_id, 1 AS boards, 0 AS shares
    FROM events.board_created
    WHERE received_at < :as_of AND DATE_DIFF('day', received_at, :as_of) <= 30
    UNION ALL
    SELECT workspace_id, 0 AS boards, 1 AS shares
    FROM events.board_shared
    WHERE received_at < :as_of AND DATE_DIFF('day', received_at, :as_of) <= 30
  ) AS happened
  GROUP BY workspace_id
)

SELECT
  workspaces.workspace_id,
  workspaces.account_id,
  workspaces.workspace_name,
  COALESCE(activity.boards_created, 0) AS boards_created,
  COALESCE(activity.boards_shared, 0) AS boards_shared,
  CASE
    WHEN COALESCE(activity.boards_created, 0) >= 10 THEN 'high'
    WHEN COALESCE(activity.boards_created, 0) >= 3 THEN 'medium'
    ELSE 'low'
  END AS activity_level
FROM product.workspaces AS workspaces
LEFT JOIN activity ON activity.workspace_id = workspaces.workspace_id
