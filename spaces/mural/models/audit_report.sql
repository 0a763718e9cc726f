/*---
name: Audit report
description: What happened in each workspace each day that an administrator asks about. People are counted, nobody is named.
primary_key: audit_id
report:
  plot: {count_by: day}
---*/
WITH happened AS (
  SELECT workspace_id, user_id, received_at, 0 AS outside
  FROM events.board_created
  UNION ALL
  SELECT workspace_id, user_id, received_at, CASE WHEN audience = 'guests' THEN 1 ELSE 0 END AS outside
  FROM events.board_shared
  UNION ALL
  SELECT workspace_id, user_id, received_at, 0 AS outside
  FROM events.session_ended
)

SELECT
  CONCAT(CAST(CAST(received_at AS DATE) AS VARCHAR), ' ', workspace_id) AS audit_id,
  CAST(received_at AS DATE) AS day,
  workspace_id,
  COUNT(*) AS events,
  COUNT(DISTINCT user_id) AS people,
  CAST(SUM(outside) AS BIGINT) AS shared_outside
FROM happened
WHERE received_at < :as_of AND DATE_DIFF('day', received_at, :as_of) <= 90 AND workspace_id IS NOT NULL
GROUP BY CAST(received_at AS DATE), workspace_id
