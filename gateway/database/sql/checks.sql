-- Faults in the access rules of this database: one row each, no row if all is well. Changes nothing.
--
-- `python -m gateway doctor` runs it; you can paste it into Supabase's SQL editor. Any role may run it: it reads only system
-- catalogues. For general advice on a project see Supabase's own linter (https://supabase.com/docs/guides/database/database-linter).
with
  client as (select r.oid, r.rolname::text as name from pg_catalog.pg_roles r where r.rolname in ('anon', 'authenticated')
             union all select 0, 'public'),
  own_table as (
    select c.*, 'public.' || c.relname as name from pg_catalog.pg_class c
     where c.relnamespace = 'public'::regnamespace and c.relname in ('user_profile', 'provider_data')),
  own_function as (
    select p.*, n.nspname = 'public' as is_offered, p.oid::regprocedure::text as name
      from pg_catalog.pg_proc p join pg_catalog.pg_namespace n on n.oid = p.pronamespace
     where n.nspname = 'gateway' or n.nspname = 'public' and p.proname ~ '^gateway_.*_v[0-9]+$'),
  -- Expressions as Postgres prints them, without spaces, brackets, casts and aliases, which differ between versions.
  wanted_policy (name, table_name, is_restrictive, command, using_text, check_text) as (values
    ('Users can view their own profile', 'user_profile', false, 'r', 'user_id_auth=selectauth.uid', ''),
    ('Users can update their own profile', 'user_profile', false, 'w', 'user_id_auth=selectauth.uid', 'user_id_auth=selectauth.uid'),
    ('Users reach only their own profile', 'user_profile', true, '*',
     'current_user<>''authenticated''oruser_id_auth=selectauth.uid', 'current_user<>''authenticated''oruser_id_auth=selectauth.uid'),
    ('Users can view their own provider data', 'provider_data', false, 'r', 'auth_provider_id=selectauth.uid', ''),
    ('Users can update their own provider data', 'provider_data', false, 'w', 'OWN ROW AND PROFILE', 'OWN ROW AND PROFILE'),
    ('Users can insert their own provider data', 'provider_data', false, 'a', '', 'OWN ROW AND PROFILE'),
    ('Users reach only their own provider data', 'provider_data', true, '*',
     'current_user<>''authenticated''orauth_provider_id=selectauth.uid', 'current_user<>''authenticated''orOWN ROW AND PROFILE')),
  policy as (
    select t.relname::text as table_name, y.polname::text as name, not y.polpermissive as is_restrictive, y.polcmd::text as command,
           array(select coalesce(r.rolname::text, 'public') from unnest(y.polroles) o (id)
                 left join pg_catalog.pg_roles r on r.oid = o.id order by 1) as roles,
           replace(plain.using_text, own.text, 'OWN ROW AND PROFILE') as using_text,
           replace(plain.check_text, own.text, 'OWN ROW AND PROFILE') as check_text
      from pg_catalog.pg_policy y join own_table t on t.oid = y.polrelid
     cross join lateral (select
       replace(regexp_replace(lower(coalesce(pg_catalog.pg_get_expr(y.polqual, y.polrelid), '')), '\s|[()]|::name|::text', '', 'g'), 'asuid', '') as using_text,
       replace(regexp_replace(lower(coalesce(pg_catalog.pg_get_expr(y.polwithcheck, y.polrelid), '')), '\s|[()]|::name|::text', '', 'g'), 'asuid', '') as check_text) plain
     cross join (select 'auth_provider_id=selectauth.uidandprovider_id_refinselectp.idfrompublic.user_profilepwherep.user_id_auth=selectauth.uid' as text) own),
  table_grant as (
    select coalesce(r.rolname::text, 'public') as role, t.relname::text as place, x.privilege_type as verb
      from own_table t cross join pg_catalog.aclexplode(t.relacl) x left join pg_catalog.pg_roles r on r.oid = x.grantee
    union all
    select coalesce(r.rolname::text, 'public'), t.relname || '.' || a.attname, x.privilege_type
      from own_table t join pg_catalog.pg_attribute a on a.attrelid = t.oid
     cross join pg_catalog.aclexplode(a.attacl) x left join pg_catalog.pg_roles r on r.oid = x.grantee),
  wanted_grant (role, place, verb) as (
    select 'authenticated', v.place, v.verb from (values ('user_profile', 'SELECT'), ('provider_data', 'SELECT'),
      ('user_profile.user_name', 'UPDATE'), ('user_profile.updated_at', 'UPDATE')) v (place, verb)
    union all
    select 'authenticated', 'provider_data.' || c.name, v.verb from (values ('UPDATE'), ('INSERT')) v (verb)
     cross join unnest(array['token', 'refresh', 'expires', 'data']) c (name)
    union all
    select 'authenticated', 'provider_data.' || c.name, 'INSERT'
      from unnest(array['id', 'provider_id_ref', 'auth_provider_id', 'name', 'type']) c (name)),
  private_grant as (  -- any right in the schema gateway of a role other than its owner, now or by default
    select x.grantee, x.privilege_type as verb, 'the schema gateway' as place
      from pg_catalog.pg_namespace n cross join pg_catalog.aclexplode(n.nspacl) x
     where n.nspname = 'gateway' and x.grantee <> n.nspowner
    union select x.grantee, x.privilege_type, 'gateway.' || c.relname
      from pg_catalog.pg_class c cross join pg_catalog.aclexplode(c.relacl) x
     where c.relnamespace = 'gateway'::regnamespace and x.grantee <> c.relowner
    union select x.grantee, x.privilege_type, 'gateway.' || c.relname || '.' || a.attname
      from pg_catalog.pg_class c join pg_catalog.pg_attribute a on a.attrelid = c.oid cross join pg_catalog.aclexplode(a.attacl) x
     where c.relnamespace = 'gateway'::regnamespace and x.grantee <> c.relowner
    union select x.grantee, x.privilege_type, 'future objects in the schema gateway'
      from pg_catalog.pg_default_acl d cross join pg_catalog.aclexplode(d.defaclacl) x
     where d.defaclnamespace = 'gateway'::regnamespace and x.grantee <> d.defaclrole),
  bound_role as (  -- roles that must reach every row and may not bypass row-level security
    select r.oid, r.rolname::text as name from pg_catalog.pg_roles r
     where not r.rolsuper and not r.rolbypassrls
       and (r.rolname = 'service_role' or r.oid in (select f.proowner from own_function f))),
  applied as (
    select substring(pg_catalog.obj_description('gateway'::regnamespace, 'pg_namespace') from 'Applied: (.*)$')::jsonb as hashes),
  found_hash (kind, hash) as (
    select 'functions', md5(string_agg(concat_ws(' ', f.oid::regprocedure, f.prosecdef, f.proconfig, f.prosrc), '' order by f.name)) from own_function f
    union all
    select 'triggers', md5(string_agg(concat_ws(' ', t.tgenabled, pg_catalog.pg_get_triggerdef(t.oid)), '' order by t.tgrelid::regclass::text, t.tgname))
      from pg_catalog.pg_trigger t where not t.tgisinternal and t.tgname ~ '^gateway_'),
  showing_view (oid) as (  -- views over our tables, over any number of views in between
    with recursive over (oid) as (
      select c.oid from pg_catalog.pg_class c
       where c.relnamespace = 'gateway'::regnamespace or c.oid in (select t.oid from own_table t)
      union select w.ev_class from over join pg_catalog.pg_depend d on d.refobjid = over.oid
          and d.refclassid = 'pg_catalog.pg_class'::regclass and d.classid = 'pg_catalog.pg_rewrite'::regclass
        join pg_catalog.pg_rewrite w on w.oid = d.objid)
    select c.oid from over join pg_catalog.pg_class c on c.oid = over.oid
     where c.relkind = 'm' or c.relkind = 'v' and not exists (select from unnest(c.reloptions) o (word)
       where lower(o.word) in ('security_invoker=true', 'security_invoker=on', 'security_invoker=1', 'security_invoker=yes'))),

  fault (about, level, message, fix) as (
    -- row-level security and policies
    select 'policies', 'fail', format('The table %s is missing.', v.name), ''
      from unnest(array['user_profile', 'provider_data']) v (name) where v.name not in (select t.relname from own_table t)
    union all select 'policies', 'fail', format('Row-level security is off on %s: every user sees every row.', t.relname), ''
      from own_table t where not t.relrowsecurity
    union all select 'policies', 'fail', format('Row-level security does not bind the owner of %s.', t.relname), ''
      from own_table t where t.relrowsecurity and not t.relforcerowsecurity
    union all select 'policies', 'fail', format('%s has a rewrite rule.', t.relname), format('Drop the rules on %s.', t.relname)
      from own_table t where t.relhasrules
    union all select 'policies', 'fail', format('The policy "%s" on %s is missing or changed.', w.name, w.table_name), ''
      from wanted_policy w where not exists (select from policy y
        where (y.name, y.table_name, y.is_restrictive, y.command, y.using_text, y.check_text)
            = (w.name, w.table_name, w.is_restrictive, w.command, w.using_text, w.check_text) and y.roles = array['authenticated'])
    union all select 'policies', 'fail', format('The policy "%s" on %s lets clients in.', y.name, y.table_name), ''
      from policy y where y.name = 'The gateway and the owner''s server' and y.roles && array['public', 'anon', 'authenticated']
    union all select 'policies', 'warn', format('The policy "%s" on %s is not ours, and opens rows to %s.', y.name, y.table_name, array_to_string(y.roles, ', ')),
           'The gateway''s policies still keep users to their own rows. Drop it, unless you know what it is for.'
      from policy y where not y.is_restrictive and y.roles && array['public', 'anon', 'authenticated']
        and y.name <> 'The gateway and the owner''s server' and (y.name, y.table_name) not in (select w.name, w.table_name from wanted_policy w)
    union all select 'policies', 'fail', format('The role %s sees no row of %s.', b.name, t.relname), ''
      from bound_role b cross join own_table t where not exists (select from pg_catalog.pg_policy y
        where y.polrelid = t.oid and y.polname = 'The gateway and the owner''s server' and b.oid = any (y.polroles))
    union all select 'policies', 'fail', format('The gateway''s %s are not those that `db apply` has installed.', h.kind), ''
      from found_hash h cross join applied a where h.hash is distinct from a.hashes ->> h.kind
    union all select 'policies', 'fail', format('Deleting a user leaves rows behind: the relation of %s is missing.', v.name), ''
      from (values ('user_profile', 'user_id_auth'), ('provider_data', 'provider_id_ref'), ('provider_data', 'auth_provider_id')) v (child, name)
     where not exists (select from pg_catalog.pg_constraint k join own_table t on t.oid = k.conrelid and t.relname = v.child
        join pg_catalog.pg_attribute a on a.attrelid = t.oid and k.conkey = array[a.attnum] and a.attname = v.name
       where k.contype = 'f' and k.confdeltype = 'c')
    -- grants
    union all select 'grants', 'fail', format('%s has %s on %s.', g.role, g.verb, g.place), ''
      from table_grant g where g.role in (select c.name from client c)
        and (g.role, g.place, g.verb) not in (select w.role, w.place, w.verb from wanted_grant w)
    union all select 'grants', 'warn', format('%s lacks %s on %s: documented queries fail.', w.role, w.verb, w.place), ''
      from wanted_grant w where (w.role, w.place, w.verb) not in (select g.role, g.place, g.verb from table_grant g)
    union all select 'grants', 'fail', format('%s has %s on %s.', coalesce(r.rolname::text, 'public'), g.verb, g.place),
           case when g.place like 'future%' then 'Revoke the default privileges in the schema gateway.' else '' end
      from private_grant g left join pg_catalog.pg_roles r on r.oid = g.grantee
    union all select 'grants', 'fail', format('The role %s %s.', v.role, v.what), format('Take that from %s.', v.role)
      from (
        select r.rolname, case when r.rolsuper then 'is a superuser' when r.rolbypassrls then 'bypasses row-level security' else 'may create roles' end
          from pg_catalog.pg_roles r where r.rolname in ('anon', 'authenticated', 'gateway_app') and (r.rolsuper or r.rolbypassrls or r.rolcreaterole)
        union all select c.name, 'is a member of ' || r.rolname from pg_catalog.pg_auth_members m
          join client c on c.oid = m.member join pg_catalog.pg_roles r on r.oid = m.roleid
        union all select c.name, 'owns ' || t.relname from pg_catalog.pg_class t join client c on c.oid = t.relowner
         where t.relnamespace = 'gateway'::regnamespace or t.oid in (select o.oid from own_table o)) v (role, what)
    -- functions
    union all select 'grants', 'fail', format('%s may execute %s.', r.rolname, f.name), ''
      from own_function f join pg_catalog.pg_roles r on r.rolname in ('anon', 'authenticated')
        or not f.is_offered and r.rolname in ('service_role', 'gateway_app')
     where has_function_privilege(r.oid, f.oid, 'execute')
    union all select 'grants', 'fail', format('%s may not execute %s.', r.rolname, f.name), ''
      from own_function f join pg_catalog.pg_roles r on r.rolname in ('service_role', 'gateway_app')
     where f.is_offered and not has_function_privilege(r.oid, f.oid, 'execute')
    union all select 'grants', 'fail', format('%s runs with its owner''s rights and its caller''s search_path.', f.name), ''
      from own_function f where f.prosecdef and not coalesce('search_path=""' = any (f.proconfig), false)
    union all select 'grants', 'fail', p.oid::regprocedure || ' reads or writes our tables with its owner''s rights, and clients may call it.',
           'Make it security invoker, or revoke execute from anon and authenticated.'
      from pg_catalog.pg_proc p join pg_catalog.pg_namespace n on n.oid = p.pronamespace
     where p.prosecdef and p.prokind in ('f', 'p') and p.oid not in (select f.oid from own_function f)
       and n.nspname not in ('pg_catalog', 'information_schema') and p.prorettype <> 'pg_catalog.trigger'::regtype
       and pg_catalog.pg_get_functiondef(p.oid) ~* '(user_profile|provider_data|gateway\.)'
       and exists (select from client c where c.oid <> 0 and has_schema_privilege(c.oid, n.oid, 'usage') and has_function_privilege(c.oid, p.oid, 'execute'))
    -- other ways out
    union all select distinct 'grants', 'fail', format('The view %s shows %s our tables with its owner''s rights.', v.oid::regclass, c.name),
           'Give it `security_invoker = true`, or revoke its grants from client roles.'
      from showing_view v join pg_catalog.pg_class o on o.oid = v.oid cross join pg_catalog.aclexplode(o.relacl) x join client c on c.oid = x.grantee
    union all select distinct 'grants', case n.nspname when 'gateway' then 'fail' else 'warn' end,
           format('%s.%s is in the publication %s: its changes leave the database.', n.nspname, c.relname, y.pubname),
           format('Take it out: alter publication %I drop table %I.%I;', y.pubname, n.nspname, c.relname)
      from pg_catalog.pg_publication y cross join lateral pg_catalog.pg_get_publication_tables(y.pubname) t
      join pg_catalog.pg_class c on c.oid = t.relid join pg_catalog.pg_namespace n on n.oid = c.relnamespace
     where n.nspname = 'gateway' or c.oid in (select o.oid from own_table o))
select about, level, message, coalesce(nullif(fix, ''), 'Run `python -m gateway db apply`: it sets everything up again and loses nothing.') as fix
  from fault order by 1, 2, 3;
