/*---
name: User milestone
description: How far each person of the product has come, from signing up to sharing a board, and when.
primary_key: user_id
report:
  plot: {count_by: milestone}
  personal: [user_id]
---*/
WITH boards AS (
  SELECT user_id, MIN(received_at) AS first_board_at
  FROM events.board_created
  WHERE received_at < :as_of
  GROUP BY user_id
),

shares AS (
  SELECT user_id, MIN(received_at) AS first_share_at
  FROM events.board_shared
  WHERE received_at < :as_of
  GROUP BY user_id
),

visits AS (
  SELECT user_id, MIN(received_at) AS first_event_at
  FROM events.tracks
  WHERE received_at < :as_of
  GROUP BY user_id
)

SELECT
  users.user_id,
  users.signed_up_on,
  visits.first_event_at,
  boards.first_board_at,
  shares.first_share_at,
  CASE
    WHEN shares.first_share_at IS NOT NULL THEN '4 shared'
    WHEN boards.first_board_at IS NOT NULL THEN '3 board'
    WHEN visits.first_event_at IS NOT NULL THEN '2 active'
    ELSE '1 signed up'
  END AS milestone
FROM product.users AS users
LEFT JOIN visits ON visits.user_id = users.user_id
LEFT JOIN boards ON boards.user_id = users.user_id
LEFT JOIN shares ON shares.user_id = users.user_id
