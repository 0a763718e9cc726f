/*---
name: Qualified leads
description: Each person in the stream of qualified leads, with the newest page that they looked at. What Marketo is told.
primary_key: user_id
depends_on: [qualified_leads]
---*/
WITH ranked AS (
  SELECT
    user_id,
    email,
    first_name,
    last_name,
    page,
    occurred_at,
    COUNT(*) OVER (PARTITION BY user_id) AS visits,
    ROW_NUMBER() OVER (PARTITION BY user_id ORDER BY occurred_at DESC, message_id) AS place
  FROM pulled_sources.qualified_leads
  WHERE user_id IS NOT NULL AND email IS NOT NULL
)

SELECT user_id, email, first_name, last_name, page, occurred_at, visits
FROM ranked
WHERE place = 1
