/*---
name: User activity
description: What each person of the product did in the last 30 days while signed in.
primary_key: user_id
---*/
WITH activity AS (
  SELECT user_id, COUNT(*) AS events_30d, MAX(received_at) AS last_active_at
  FROM events.tracks
  WHERE user_id IS NOT NULL AND received_at < :as_of AND DATE_DIFF('day', received_at, :as_of) <= 30
  GROUP BY user_id
),

boards AS (
  SELECT user_id, COUNT(*) AS boards_created_30d
  FROM events.board_created
  WHERE user_id IS NOT NULL AND received_at < :as_of AND DATE_DIFF('day', received_at, :as_of) <= 30
  GROUP BY user_id
)

SELECT
  users.user_id,
  users.signed_up_on,
  activity.last_active_at,
  COALESCE(activity.events_30d, 0) AS events_30d,
  COALESCE(boards.boards_created_30d, 0) AS boards_created_30d
FROM product.users AS users
LEFT JOIN activity ON activity.user_id = users.user_id
LEFT JOIN boards ON boards.user_id = users.user_id
