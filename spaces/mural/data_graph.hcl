data_graph {
  version = "v1.0.0"

  entity "workspace_role" {
    name        = "Workspace role"
    description = "What a person may do in a workspace"
    table_ref   = "mural.product.workspace_roles"
    primary_key = "role_id"
  }

  entity "workspace" {
    name        = "Workspace"
    description = "A workspace with its boards"
    table_ref   = "mural.product.workspaces"
    primary_key = "workspace_id"
  }

  entity "account" {
    name        = "Account"
    description = "A paying company: contract value, end of term, engagement"
    table_ref   = "mural.billing.accounts"
    primary_key = "account_id"
  }

  entity "nps_response" {
    name        = "NPS response"
    description = "An answer to the NPS survey, pulled from Satismeter"
    table_ref   = "mural.pulled_sources.nps_responses"
    primary_key = "response_id"
  }

  profile {
    profile_folder = "mural.profiles"
    type           = "segment:materialized"

    relationship "nps-responses" {
      name           = "NPS responses"
      related_entity = "nps_response"

      external_id {
        type     = "user_id"
        join_key = "user_id"
      }
    }

    relationship "workspace-roles" {
      name           = "Workspace roles"
      related_entity = "workspace_role"

      external_id {
        type     = "user_id"
        join_key = "user_id"
      }

      relationship "workspace" {
        name           = "Workspace"
        related_entity = "workspace"
        join_on        = "workspace_role.workspace_id = workspace.workspace_id"

        relationship "account" {
          name           = "Account"
          related_entity = "account"
          join_on        = "workspace.account_id = account.account_id"
        }
      }
    }
  }
}
