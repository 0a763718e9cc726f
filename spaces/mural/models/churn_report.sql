/*---
name: Churn report
description: How likely each account is to leave, scored from the end of its term, its engagement and its unused seats.
primary_key: account_id
---*/
WITH scored AS (
  SELECT
    account_id,
    company_name,
    arr,
    engagement,
    DATE_DIFF('day', CAST(:as_of AS DATE), term_end) AS days_to_term_end,
    CASE WHEN engagement <= 20 THEN 50 WHEN engagement <= 40 THEN 35 WHEN engagement <= 60 THEN 15 ELSE 0 END AS engagement_points
  FROM billing.accounts
),

timed AS (
  SELECT
    account_id,
    company_name,
    arr,
    engagement,
    days_to_term_end,
    engagement_points
      + CASE
          WHEN days_to_term_end < 0 THEN 0
          WHEN days_to_term_end <= 30 THEN 50
          WHEN days_to_term_end <= 90 THEN 30
          ELSE 10
        END AS churn_score
  FROM scored
)

SELECT
  account_id,
  company_name,
  arr,
  engagement,
  days_to_term_end,
  churn_score,
  CASE WHEN churn_score >= 80 THEN 'high' WHEN churn_score >= 45 THEN 'medium' ELSE 'low' END AS churn_risk
FROM timed
WHERE days_to_term_end >= 0
