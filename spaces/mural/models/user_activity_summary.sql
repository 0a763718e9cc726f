/*---
name: User activity summary
description: People, boards and sessions of each day.
primary_key: day
report:
  plot: {label: day, values: [people, boards, sessions]}
---*/
WITH happened AS (
  SELECT CAST(received_at AS DATE) AS day, user_id, event
  FROM events.tracks
  WHERE received_at < :as_of AND DATE_DIFF('day', received_at, :as_of) <= 90
)

SELECT
  day,
  COUNT(DISTINCT user_id) AS people,
  CAST(SUM(CASE WHEN event = 'board_created' THEN 1 ELSE 0 END) AS BIGINT) AS boards,
  CAST(SUM(CASE WHEN event = 'session_ended' THEN 1 ELSE 0 END) AS BIGINT) AS sessions,
  COUNT(*) AS events
FROM happened
GROUP BY day
