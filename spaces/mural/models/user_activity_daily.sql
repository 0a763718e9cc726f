/*---
name: User activity by day
description: What each person did on each day of the last 30 days while signed in, for the lake.
primary_key: activity_id
---*/
SELECT
  CONCAT(user_id, ' ', CAST(CAST(received_at AS DATE) AS VARCHAR)) AS activity_id,
  user_id,
  CAST(received_at AS DATE) AS day,
  COUNT(*) AS events,
  CAST(SUM(CASE WHEN event = 'board_created' THEN 1 ELSE 0 END) AS BIGINT) AS boards_created,
  CAST(SUM(CASE WHEN event = 'board_shared' THEN 1 ELSE 0 END) AS BIGINT) AS boards_shared,
  MAX(received_at) AS last_active_at
FROM events.tracks
WHERE user_id IS NOT NULL AND received_at < :as_of AND DATE_DIFF('day', received_at, :as_of) <= 30
GROUP BY user_id, CAST(received_at AS DATE)
