# Keys are integers in these tables. A client's number, as text, is the user_id of its events: the join casts it, and
# validation says so.
data_graph {
  version = "v1.0.0"

  entity "disposition" {
    name        = "Disposition"
    description = "The right of a client to an account: its owner, or a disponent"
    table_ref   = "czech_bank.bank.disposition"
    primary_key = "disposition_id"
  }

  entity "account" {
    name        = "Account"
    table_ref   = "czech_bank.bank.account"
    primary_key = "account_id"
  }

  entity "loan" {
    name        = "Loan"
    description = "Status A and B: finished, paid or not; C and D: running, in order or in debt"
    table_ref   = "czech_bank.bank.loan"
    primary_key = "loan_id"
  }

  entity "permanent_order" {
    name        = "Permanent order"
    table_ref   = "czech_bank.bank.permanent_order"
    primary_key = "order_id"
  }

  entity "trans" {
    name        = "Transaction"
    table_ref   = "czech_bank.bank.trans"
    primary_key = "trans_id"
  }

  entity "card" {
    name        = "Card"
    table_ref   = "czech_bank.bank.card"
    primary_key = "card_id"
  }

  profile {
    profile_folder = "czech_bank.profiles"
    type           = "segment:materialized"

    relationship "disposition" {
      name           = "Dispositions"
      related_entity = "disposition"

      external_id {
        type     = "user_id"
        join_key = "client_id"
      }

      relationship "account" {
        name           = "Account"
        related_entity = "account"
        join_on        = "disposition.account_id = account.account_id"

        relationship "loan" {
          name           = "Loans"
          related_entity = "loan"
          join_on        = "account.account_id = loan.account_id"
        }

        relationship "permanent-order" {
          name           = "Permanent orders"
          related_entity = "permanent_order"
          join_on        = "account.account_id = permanent_order.account_id"
        }

        relationship "trans" {
          name           = "Transactions"
          related_entity = "trans"
          join_on        = "account.account_id = trans.account_id"
        }
      }

      relationship "card" {
        name           = "Cards"
        related_entity = "card"
        join_on        = "disposition.disposition_id = card.disposition_id"
      }
    }
  }
}
