data_graph {
  version = "v1.0.0"

  entity "account" {
    name        = "Account"
    description = "A bank account of a customer"
    table_ref   = "owl_bank.bank.accounts"
    primary_key = "account_id"
  }

  entity "credit_card" {
    name        = "Credit card"
    description = "A credit card on an account, with what is due on it"
    table_ref   = "owl_bank.bank.credit_cards"
    primary_key = "card_id"
  }

  entity "transaction" {
    name               = "Transaction"
    description        = "A purchase or payment on a credit card"
    table_ref          = "owl_bank.bank.transactions"
    primary_key        = "transaction_id"
    enrichment_enabled = true
  }

  profile {
    profile_folder = "owl_bank.profiles"
    type           = "segment:materialized"

    relationship "accounts" {
      name           = "Accounts"
      related_entity = "account"

      external_id {
        type     = "email"
        join_key = "customer_email"
      }

      relationship "credit-cards" {
        name           = "Credit cards"
        related_entity = "credit_card"
        join_on        = "account.account_id = credit_card.account_id"

        relationship "transactions" {
          name           = "Transactions"
          related_entity = "transaction"
          join_on        = "credit_card.card_id = transaction.card_id"
        }
      }
    }
  }
}
