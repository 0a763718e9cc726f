/*---
name: Churn report
description: >-
  How likely each account is to leave: points for the end of its term, low engagement, activity that falls and bad NPS answers.
  Edit the points here; Salesforce follows after a release.
primary_key: account_id
depends_on: [nps_responses]
---*/
WITH events_of_workspaces AS (
  SELECT workspace_id, received_at FROM events.board_created
  UNION ALL
  SELECT workspace_id, received_at FROM events.session_ended
),

activity AS (
  SELECT
    workspaces.account_id,
    SUM(CASE WHEN DATE_DIFF('day', happened.received_at, :as_of) < 7 THEN 1 ELSE 0 END) AS this_week,
    SUM(CASE WHEN DATE_DIFF('day', happened.received_at, :as_of) BETWEEN 7 AND 13 THEN 1 ELSE 0 END) AS week_before
  FROM events_of_workspaces AS happened
  JOIN product.workspaces AS workspaces ON workspaces.workspace_id = happened.workspace_id
  WHERE happened.received_at < :as_of
  GROUP BY workspaces.account_id
),

-- A person with roles in several workspaces of an account answers once.
answers AS (
  SELECT DISTINCT workspaces.account_id, responses.response_id, responses.rating
  FROM pulled_sources.nps_responses AS responses
  JOIN product.workspace_roles AS roles ON roles.user_id = responses.user_id
  JOIN product.workspaces AS workspaces ON workspaces.workspace_id = roles.workspace_id
  WHERE responses.responded_at < :as_of AND DATE_DIFF('day', responses.responded_at, :as_of) <= 90
),

nps AS (
  SELECT account_id, ROUND(AVG(rating), 1) AS nps_rating
  FROM answers
  GROUP BY account_id
),

known AS (
  SELECT
    accounts.account_id,
    accounts.company_name,
    accounts.arr,
    accounts.engagement,
    DATE_DIFF('day', CAST(:as_of AS DATE), accounts.term_end) AS days_to_term_end,
    COALESCE(activity.this_week, 0) AS this_week,
    COALESCE(activity.week_before, 0) AS week_before,
    nps.nps_rating
  FROM billing.accounts AS accounts
  LEFT JOIN activity ON activity.account_id = accounts.account_id
  LEFT JOIN nps ON nps.account_id = accounts.account_id
),

scored AS (
  SELECT
    account_id,
    company_name,
    arr,
    engagement,
    days_to_term_end,
    CAST(this_week - week_before AS BIGINT) AS activity_change,
    nps_rating,
    CASE WHEN engagement <= 20 THEN 35 WHEN engagement <= 40 THEN 25 WHEN engagement <= 60 THEN 10 ELSE 0 END
      + CASE WHEN days_to_term_end <= 30 THEN 35 WHEN days_to_term_end <= 90 THEN 20 ELSE 5 END
      + CASE WHEN this_week * 2 < week_before THEN 15 WHEN this_week < week_before THEN 5 ELSE 0 END
      + CASE WHEN nps_rating <= 6 THEN 15 WHEN nps_rating < 8 THEN 5 ELSE 0 END AS churn_score
  FROM known
  WHERE days_to_term_end >= 0
)

SELECT
  account_id,
  company_name,
  arr,
  engagement,
  days_to_term_end,
  activity_change,
  nps_rating,
  churn_score,
  CASE WHEN churn_score >= 65 THEN 'high' WHEN churn_score >= 40 THEN 'medium' ELSE 'low' END AS churn_risk
FROM scored
